"""modeflow.flows"""
