"""From a cloud to a program by search: proposals from the cloud, moves, a quick judge, and the kernel to vouch."""
