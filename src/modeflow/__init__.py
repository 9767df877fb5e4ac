"""modeflow: densities and generation for data with many isolated modes."""
