"""modeflow.report"""
