"""Jobs that survive: their table is the truth, Huey only carries word that one is due."""
