"""modeflow.metrics"""
