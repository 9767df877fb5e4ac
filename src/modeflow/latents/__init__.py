"""modeflow.latents"""
