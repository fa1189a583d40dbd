"""Files of Keras 3, read without running anything in them."""
