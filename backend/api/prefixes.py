"""Where routes for scripts lie: under two prefixes, for published clients use both."""

PREFIXES = ("/v1/label", "/v1/labeling")
