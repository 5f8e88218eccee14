"""What the package asks of the machine: files, locks, memory, versions."""
