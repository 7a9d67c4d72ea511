"""From a recipe to a trained model: what stays at home. Files of this folder may see both packages."""
