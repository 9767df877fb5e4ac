"""modeflow.data"""
