// Show openapi.json in Swagger UI. No request goes to another origin.

const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
follow();
dark.addEventListener("change", follow);

// Swagger UI has no component for arrays of binary strings and logs an error for it.
const binary = ({ React }) => ({
  components: {
    JsonSchema_string_binary: (props) => React.createElement(props.getComponent("JsonSchema_string"), props),
  },
});

SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#api",
  deepLinking: true,
  plugins: [binary],
  validatorUrl: null, // the default sends the URL to validator.swagger.io
});
