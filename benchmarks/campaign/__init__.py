"""Kills, failing disks and damaged files: what fastlt does when its surroundings go wrong."""
