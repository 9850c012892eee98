vcl 4.1;
@full import std;
backend origin { .host = "127.0.0.1"; .port = "@ORIGIN@"; }
# Varnish is a cache. Here each request is sent to the origin, as the other proxies do.
sub vcl_recv { return (pass); }
sub vcl_deliver {
  if (req.url ~ "(?i)\.(gif|jpe?g|png|css|js)$") { set resp.http.Cache-Control = "max-age=@TTL@"; }
}
@full sub vcl_backend_response {
@full   if (beresp.status >= 500) { return (error(beresp.status)); }
@full   if (beresp.http.Content-Type ~ "^(text/|application/(javascript|json)|image/svg)") { set beresp.do_gzip = true; }
@full }
@full sub vcl_backend_error {
@full   set beresp.http.Content-Type = "text/html";
@full   set beresp.body = std.fileread("@SORRY@");
@full   return (deliver);
@full }
