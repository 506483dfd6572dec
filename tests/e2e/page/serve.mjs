// Builds the page with Vite into the folder TRACEWIRE_TEST_OUT, serves it on a free port, and prints its address.

import { build, preview } from "vite";

await build({ logLevel: "error" });
const server = await preview({ logLevel: "error", preview: { host: "127.0.0.1", port: 0, strictPort: false } });
console.log(`http://127.0.0.1:${server.httpServer.address().port}`);
