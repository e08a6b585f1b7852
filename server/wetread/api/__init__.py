"""HTTP faces. Each authorises, calls one function of a lower room, and renders."""
