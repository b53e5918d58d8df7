"""From a checkpoint and what a user gives to programs, the best first."""
