"""What a user gives: containers of tensors, batches of them, targets, and what is refused."""
