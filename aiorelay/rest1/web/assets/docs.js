// Shows openapi.json, and asks nobody else for anything.

const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
follow();
dark.addEventListener("change", follow);

// For lists of files it asks for a component that it does not have, complains, and does without.
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
  validatorUrl: null, // the default sends the document's address elsewhere
});
