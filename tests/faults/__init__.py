"""A campaign of faults: seeded schedules of what goes wrong while the pipeline runs, and what must hold after it."""
