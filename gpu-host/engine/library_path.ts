import { fileURLToPath } from "node:url";

/** `TLORA_LIBRARY`, else where `make -C kernels` puts the library. */
export function libraryPath(fromEnvironment: string | undefined): string {
  if (fromEnvironment !== undefined && fromEnvironment !== "") return fromEnvironment;
  return fileURLToPath(new URL("../../kernels/build/libtlora.so", import.meta.url));
}
