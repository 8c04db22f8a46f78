<?php
// An upload API in PHP: STORE names its directory; more bytes than MAX_BODY are answered with 413.
$limit = getenv("MAX_BODY");
if ($limit !== false && $_SERVER["CONTENT_LENGTH"] > (int) $limit) {
    http_response_code(413);
    exit("too large");
}
$file = $_FILES["somefile"] ?? null;
if ($file === null || $file["error"] !== UPLOAD_ERR_OK) {
    http_response_code(400);
    exit("no file");
}
$path = getenv("STORE") . "/" . basename($file["name"]);
if (!move_uploaded_file($file["tmp_name"], $path)) {
    http_response_code(500);
    exit("not stored");
}
header("Content-Type: application/json");
echo json_encode(["status" => "done", "path" => $path, "fields" => (object) $_POST]);
