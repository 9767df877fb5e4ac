"""modeflow.estimators"""
