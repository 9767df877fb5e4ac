"""modeflow.cli"""
