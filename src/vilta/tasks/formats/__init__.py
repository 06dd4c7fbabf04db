"""Published and plain file formats that hold a task's items."""
