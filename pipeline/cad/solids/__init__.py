"""What a program builds: the kernel in its sandbox, meshes, points, pictures."""
