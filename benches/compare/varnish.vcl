# Varnish as a cache (hit) or as a proxy (miss). @…@ are filled in by `run`.
vcl 4.1;

backend api {
    .host = "127.0.0.1";
    .port = "@UPSTREAM_PORT@";
}

sub vcl_recv {
    # Without this, a request with Authorization is never answered from the cache.
    return (@VERB@);
}

sub vcl_hash {
    hash_data(req.url);
    hash_data(req.http.Authorization);
    return (lookup);
}

sub vcl_backend_response {
    set beresp.ttl = 12h;
    return (deliver);
}
