"""modeflow.transforms"""
