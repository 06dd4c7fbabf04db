"""One file a task: its model, loss and metric together."""
