// Shows openapi.json, and asks nobody else for anything.
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#api",
  deepLinking: true,
  validatorUrl: null, // the default sends the document's address elsewhere
});
