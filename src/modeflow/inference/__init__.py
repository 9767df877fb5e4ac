"""modeflow.inference"""
