"""`/docs`: the API, described and tried out in a browser.

The page's script and style come from a public CDN. They are one version, and the browser runs them
only if their content is what it was when this was written. The page may load nothing else, may send
requests to this server alone, and tells the CDN nothing of where it is.
"""

from __future__ import annotations

import base64
import hashlib

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

_CDN = "https://cdn.jsdelivr.net/npm/swagger-ui-dist@5.35.0"
_SCRIPT = f"{_CDN}/swagger-ui-bundle.js"
_SCRIPT_HASH = "sha384-gjRm0bEPMeTmMh5jT2cHccIwCUZSTd8YC+j0d0sXw0MdGEfScduGpSyF3ZSSLkX9"
_STYLE = f"{_CDN}/swagger-ui.css"
_STYLE_HASH = "sha384-WlYgdmXYOOBWL5apwjDEZwN+U3HmXSSu5R6V5aGxEcf7z+KuRNwBhoxKVN1i3D5I"
_START = 'SwaggerUIBundle({url: "openapi.json", dom_id: "#ui", deepLinking: true});'
_PAGE = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Hardest First: the API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{_STYLE}" integrity="{_STYLE_HASH}" crossorigin="anonymous">
</head>
<body>
<div id="ui">This page needs cdn.jsdelivr.net. The description itself is at
<a href="openapi.json">openapi.json</a>.</div>
<script src="{_SCRIPT}" integrity="{_SCRIPT_HASH}" crossorigin="anonymous"></script>
<script>{_START}</script>
</body>
</html>
"""

router = APIRouter(include_in_schema=False)


@router.get("/docs")
def docs() -> HTMLResponse:
    """Show the API in a browser."""
    start = base64.b64encode(hashlib.sha256(_START.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src {_SCRIPT} 'sha256-{start}'; "
        # Swagger UI sets the style of single elements.
        f"style-src {_STYLE} 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    )
    return HTMLResponse(_PAGE, headers={"Content-Security-Policy": policy})
