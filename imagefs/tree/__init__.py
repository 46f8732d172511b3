"""An opened image as one object, for programs: no mount, no driver, no kernel."""
