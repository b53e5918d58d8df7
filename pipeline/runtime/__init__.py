"""What every command stands on: errors, files that appear when whole, signals, progress, scratch, seeds."""
