"""modeflow.training"""
