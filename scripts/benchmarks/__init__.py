"""The benchmark behind `./scripts/bench`: what it measures, beside whom, and how it tells."""
