// Serves the page on an origin of its own; `tracewire` is the local copy of the browser client.

import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";

export default defineConfig({
  build: { outDir: process.env.TRACEWIRE_TEST_OUT, emptyOutDir: true },
  resolve: { alias: { tracewire: fileURLToPath(new URL("../../../app/tracewire/console/tracewire.js", import.meta.url)) } },
});
