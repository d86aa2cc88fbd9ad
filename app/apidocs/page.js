// No standalone preset: its bar at the top would load whatever document a visitor is sent to.
SwaggerUIBundle({
    url: "../apispec.json",
    dom_id: "#swagger-ui",
    presets: [SwaggerUIBundle.presets.apis],
    layout: "BaseLayout",
    queryConfigEnabled: false,
    deepLinking: true,
    defaultModelsExpandDepth: 0,
    displayRequestDuration: true,
    tryItOutEnabled: true,
    validatorUrl: null,
});
