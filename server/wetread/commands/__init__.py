"""The commands of `wetread`, by what they are for."""
