/** Words the base model saw in pretraining; an adapter should learn a format, not a vocabulary. */
export const NAMES = [
  "Ada",
  "Ben",
  "Cleo",
  "Dan",
  "Ella",
  "Finn",
  "Gina",
  "Hugo",
  "Iris",
  "Jack",
  "Kira",
  "Leo",
  "Mia",
  "Noah",
  "Olga",
  "Paul",
  "Rosa",
  "Sam",
  "Tina",
  "Uma",
  "Vera",
  "Will",
  "Yara",
  "Zoe",
] as const;

export const COLOURS = [
  "red",
  "blue",
  "green",
  "black",
  "white",
  "yellow",
  "brown",
  "grey",
  "pink",
  "orange",
  "purple",
  "silver",
] as const;

export const ITEMS = [
  "lamp",
  "chair",
  "table",
  "clock",
  "basket",
  "bottle",
  "hammer",
  "ladder",
  "mirror",
  "blanket",
  "pillow",
  "kettle",
  "bucket",
  "carpet",
  "guitar",
  "jacket",
  "lantern",
  "mug",
  "notebook",
  "pencil",
] as const;

export const CITIES = [
  "Oslo",
  "Paris",
  "Rome",
  "Vienna",
  "Lisbon",
  "Madrid",
  "Prague",
  "Dublin",
  "Athens",
  "Berlin",
  "Warsaw",
  "Zurich",
] as const;

export const PLACES = [
  "garden",
  "forest",
  "beach",
  "market",
  "library",
  "kitchen",
  "attic",
  "barn",
  "museum",
  "park",
  "station",
  "castle",
] as const;

export const OBJECTS = [
  "key",
  "ring",
  "map",
  "book",
  "kite",
  "ball",
  "hat",
  "coin",
  "letter",
  "shell",
  "whistle",
  "button",
] as const;

export const GOOD_MOODS = ["glad", "happy", "proud", "calm", "cheerful", "thankful", "relieved", "excited"] as const;

export const BAD_MOODS = ["sad", "angry", "tired", "worried", "lonely", "upset", "scared", "gloomy"] as const;

export const MONTHS = [
  "January",
  "February",
  "March",
  "April",
  "May",
  "June",
  "July",
  "August",
  "September",
  "October",
  "November",
  "December",
] as const;
