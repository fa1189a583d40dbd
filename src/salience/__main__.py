from salience.cli import main

main()
