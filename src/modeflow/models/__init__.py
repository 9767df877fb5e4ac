"""modeflow.models"""
