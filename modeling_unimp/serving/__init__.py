"""Many shoppers at once, and reasons of answers: what stays at home. Files of this folder may see both packages."""
