"""An image as a page to look at: what is in it, what hides what, and what is worth a look."""
