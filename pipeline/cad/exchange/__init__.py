"""Files that people bring and take: programs, meshes, STEP, scans."""
