/** Sizes that a client can run into. */

export interface Limits {
  /** One uploaded file. */
  fileBytes: number;
  /** One line of a training file. */
  lineBytes: number;
  /** One JSON body. */
  jsonBytes: number;
}

export const defaultLimits: Limits = {
  fileBytes: 1024 ** 3,
  lineBytes: 4 * 1024 ** 2,
  jsonBytes: 1024 ** 2,
};
