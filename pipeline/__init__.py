"""The CAD-MLLM curriculum library: everything the stages call, nothing that reads argv."""
