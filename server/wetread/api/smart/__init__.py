"""SMART App Launch 2.2 and Backend Services: discovery, and the endpoints that apps call."""
