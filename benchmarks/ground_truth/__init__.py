"""Trained networks whose answer is known, and what scores and rules of choice make of them."""
