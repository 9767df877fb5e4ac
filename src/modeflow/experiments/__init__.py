"""modeflow.experiments"""
