"""Replays of active learning on a labelled data set: what would have been saved."""
