"""What looks at the image."""
