"""modeflow.densities"""
