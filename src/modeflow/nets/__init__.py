"""modeflow.nets"""
