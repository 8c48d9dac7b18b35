/** What a Piscina task does. @module */
export default (message: object): object => message;
